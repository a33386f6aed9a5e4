-- Append to a delivery's log, set its next state, and update the health of its receiver. A repeated call finds its own
-- entry at the end of the log. receiver_did: answered, failed, or '' if the attempt says nothing about the receiver.
local id, attempt, state, retry_ms, holder, receiver_did, breaker_ms = unpack(ARGV)
local delivery, log = key('delivery', id), key('attempts', id)
local receiver, holding, was = unpack(redis.call('HMGET', delivery, 'receiver', 'holder', 'state'))
if not was then return {'missing'} end

if redis.call('LINDEX', log, -1) ~= attempt then
  redis.call('RPUSH', log, attempt)
  redis.call('LTRIM', log, -50, -1)
  redis.call('HINCRBY', delivery, 'tries', 1)
  count('webhook:' .. state)
  note_receiver('webhook', receiver, receiver_did, tonumber(breaker_ms))
  -- A sender whose hold expired has no effect on the present holder, unless the event arrived
  if holder == holding or holder == '' or state == 'delivered' then
    end_hold('webhook', id, receiver)
    if state == 'pending' then
      local next_ms = NOW + tonumber(retry_ms)
      redis.call('HSET', delivery, 'next_ms', next_ms, 'held_until', 0, 'holder', '')
      if was ~= 'pending' then
        redis.call('HSET', delivery, 'state', state)
        list_delivery(id, receiver, redis.call('HGET', delivery, 'seq'), state)
      end
      schedule('webhook', id, receiver, next_ms)
    else
      settle_delivery(id, receiver, state)
    end
  end
  if redis.call('EXISTS', key('webhook_queue', receiver)) == 1 then look_by('webhook', receiver, NOW) end
end
return {'ok', redis.call('HGETALL', delivery), redis.call('LRANGE', log, 0, -1)}
