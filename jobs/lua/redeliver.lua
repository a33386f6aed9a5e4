-- Make the terminal delivery, and any given up, due again under the same ids. One in flight keeps its hold.
local id = ARGV[1]
if not get(id, 'status') then return {'missing'} end
local rows = {}
for _, delivery_id in ipairs(redis.call('LRANGE', key('job_deliveries', id), 0, -1)) do
  local delivery = key('delivery', delivery_id)
  local event, state, held_until = unpack(redis.call('HMGET', delivery, 'event', 'state', 'held_until'))
  if state == 'given_up' or is_over(string.sub(event, 5)) then
    local next_ms = math.max(NOW, tonumber(held_until))
    redis.call('HSET', delivery, 'state', 'pending', 'next_ms', next_ms)
    redis.call('ZADD', key('webhooks_due'), next_ms, delivery_id)
    rows[#rows + 1] =
      {redis.call('HGETALL', delivery), redis.call('LRANGE', key('attempts', delivery_id), 0, -1)}
  end
end
if #rows == 0 then return {'state', 'the job has no delivery that could be repeated'} end
return {'ok', rows}
