-- Make deliveries due again under the same ids, with a fresh set of attempts; one in flight keeps its hold. only: the id
-- of one delivery in any state; '': the terminal one of the job, and any given up. id: of the job or batch.
local id, only = unpack(ARGV)
if redis.call('EXISTS', key('job', id), key('batch', id)) == 0 then return {'missing'} end
local rows = {}
for _, delivery_id in ipairs(redis.call('LRANGE', key('job_deliveries', id), 0, -1)) do
  local delivery = key('delivery', delivery_id)
  local event, state, held_until, receiver =
    unpack(redis.call('HMGET', delivery, 'event', 'state', 'held_until', 'receiver'))
  local is_wanted = delivery_id == only or (only == '' and (state == 'given_up' or is_over(string.sub(event, 5))))
  if is_wanted then
    open_delivery(delivery_id, receiver, math.max(NOW, tonumber(held_until)))
    -- Requested by the caller: try the receiver now, even if its circuit breaker is open
    redis.call('HSET', key('webhook_receiver', receiver), 'open_until', 0)
    redis.call('PEXPIRE', key('webhook_receiver', receiver), RECEIVER_MEMORY_MS)
    rows[#rows + 1] =
      {redis.call('HGETALL', delivery), redis.call('LRANGE', key('attempts', delivery_id), 0, -1)}
  end
end
if #rows == 0 then return {'state', 'the job has no delivery that could be repeated'} end
return {'ok', rows}
