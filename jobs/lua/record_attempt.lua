-- Append to a delivery's log, set its next state, and update the health of its receiver. A repeated call finds its own
-- entry at the end of the log. receiver_did: answered, failed, or '' if the attempt says nothing about the receiver.
local id, attempt, state, retry_ms, holder, receiver_did, breaker_ms = unpack(ARGV)
local FAILURES_TO_OPEN, LONGEST_FACTOR, MEMORY_MS = 3, 10, 7 * 86400000
local delivery, log = key('delivery', id), key('attempts', id)
local receiver, holding, was = unpack(redis.call('HMGET', delivery, 'receiver', 'holder', 'state'))
if not was then return {'missing'} end

-- Circuit breaker: opens after consecutive failures, longer each time; then one probe at a time is sent.
local function note_receiver()
  local health = key('webhook_receiver', receiver)
  if receiver_did == 'answered' then
    redis.call('HSET', health, 'failures', 0, 'open_until', 0, 'answered', 1)
  elseif tonumber(redis.call('HGET', health, 'open_until') or '0') <= NOW then
    -- Requests in flight when it opened do not count again
    local failures = redis.call('HINCRBY', health, 'failures', 1)
    if failures >= FAILURES_TO_OPEN then
      local factor = math.min(LONGEST_FACTOR, 2 ^ (failures - FAILURES_TO_OPEN))
      redis.call('HSET', health, 'open_until', string.format('%.0f', NOW + tonumber(breaker_ms) * factor))
      count('webhook_breaker:opened')
    end
  end
  redis.call('PEXPIRE', health, MEMORY_MS)
end

if redis.call('LINDEX', log, -1) ~= attempt then
  redis.call('RPUSH', log, attempt)
  redis.call('LTRIM', log, -50, -1)
  redis.call('HINCRBY', delivery, 'tries', 1)
  count('webhook:' .. state)
  if receiver_did ~= '' then note_receiver() end
  -- A sender whose hold expired has no effect on the present holder, unless the event arrived
  if holder == holding or holder == '' or state == 'delivered' then
    end_hold(id, receiver)
    if state == 'pending' then
      local next_ms = NOW + tonumber(retry_ms)
      redis.call('HSET', delivery, 'next_ms', next_ms, 'held_until', 0, 'holder', '')
      if was ~= 'pending' then
        redis.call('HSET', delivery, 'state', state)
        list_delivery(id, receiver, redis.call('HGET', delivery, 'seq'), state)
      end
      schedule_delivery(id, receiver, next_ms)
    else
      settle_delivery(id, receiver, state)
    end
  end
  if redis.call('EXISTS', key('webhook_queue', receiver)) == 1 then look_by(receiver, NOW) end
end
return {'ok', redis.call('HGETALL', delivery), redis.call('LRANGE', log, 0, -1)}
