-- Append to a delivery's log and set what happens next. A repeated call finds its own line at the end of the log.
local id, attempt, state, retry_ms = unpack(ARGV)
local delivery, log = key('delivery', id), key('attempts', id)
if redis.call('EXISTS', delivery) == 0 then return {'missing'} end
if redis.call('LINDEX', log, -1) ~= attempt then
  redis.call('RPUSH', log, attempt)
  count('webhook:' .. state)
  redis.call('LTRIM', log, -50, -1)
  if state == 'pending' then
    local next_ms = NOW + tonumber(retry_ms)
    redis.call('ZADD', key('webhooks_due'), next_ms, id)
    redis.call('HSET', delivery, 'state', state, 'next_ms', next_ms, 'held_until', 0, 'holder', '')
  else
    redis.call('ZREM', key('webhooks_due'), id)
    redis.call('HSET', delivery, 'state', state, 'next_ms', '', 'held_until', 0, 'holder', '')
  end
end
return {'ok', redis.call('HGETALL', delivery), redis.call('LRANGE', log, 0, -1)}
