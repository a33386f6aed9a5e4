-- Versions of an owner's webhook secret that sign now: the current one, and the previous one during a rotation.
local owner = ARGV[1]
local version, previous, previous_until =
  unpack(redis.call('HMGET', key('webhook_secret', owner), 'version', 'previous', 'previous_until'))
local still = previous and tonumber(previous_until) > NOW
return {'ok', version or '1', still and previous or '', still and previous_until or ''}
