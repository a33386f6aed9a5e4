-- Next version of an owner's webhook secret; the previous one signs as well for overlap_ms. The token makes a repeated
-- call (lost reply) find its own rotation.
local owner, token, overlap_ms = unpack(ARGV)
local record = key('webhook_secret', owner)
local version, rotated_by = unpack(redis.call('HMGET', record, 'version', 'rotated_by'))
version = tonumber(version or '1')
if rotated_by ~= token then
  redis.call('HSET', record, 'version', version + 1, 'previous', version, 'previous_until', NOW + tonumber(overlap_ms),
    'rotated_by', token)
end
local now_at, previous, previous_until = unpack(redis.call('HMGET', record, 'version', 'previous', 'previous_until'))
local still = tonumber(previous_until) > NOW
return {'ok', now_at, still and previous or '', still and previous_until or ''}
