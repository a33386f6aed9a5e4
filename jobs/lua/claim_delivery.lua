-- Hold a due delivery for hold_ms; after that it is due again by itself.
local id, hold_ms, token = unpack(ARGV)
local delivery = key('delivery', id)
local state, holder = unpack(redis.call('HMGET', delivery, 'state', 'holder'))
if state ~= 'pending' then return {'none'} end
if holder ~= token then
  local due = tonumber(redis.call('ZSCORE', key('webhooks_due'), id) or '')
  if not due or due > NOW then return {'none'} end
  local until_ms = NOW + tonumber(hold_ms)
  redis.call('ZADD', key('webhooks_due'), until_ms, id)
  redis.call('HSET', delivery, 'holder', token, 'held_until', until_ms)
end
return {'ok', redis.call('HGETALL', delivery), redis.call('LRANGE', key('attempts', id), 0, -1)}
