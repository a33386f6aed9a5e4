-- Delete a job that is over, with its events and deliveries.
local id = ARGV[1]
local status, owner = get(id, 'status'), owner_of(id)
redis.call('HDEL', key('janitor_failures'), 'delete_at:' .. id)
if not status then
  redis.call('ZREM', key('delete_at'), id) -- nothing is left to delete
  return {'missing'}
end
if not is_over(status) then return {'state', 'the job is ' .. status .. '; only a job that is over can be deleted'} end
for _, delivery in ipairs(redis.call('LRANGE', key('job_deliveries', id), 0, -1)) do
  withdraw_delivery(delivery)
  redis.call('DEL', key('delivery', delivery), key('attempts', delivery))
end
drop_export(id)
redis.call('ZREM', key('status', status), id)
redis.call('ZREM', key('created'), id)
redis.call('ZREM', key('delete_at'), id)
if owner then
  redis.call('ZREM', key('status', status .. ':' .. owner), id)
  redis.call('ZREM', key('created', owner), id)
end
-- A fetch that was begun may still store a file. If it dies before it deletes that, the janitor does after its hold.
local inputs, held_until = unpack(redis.call('HMGET', key('job', id), 'inputs', 'held_until'))
if inputs == 'wanted' and (tonumber(held_until) or 0) > 0 then redis.call('ZADD', key('arrivals'), held_until, id) end
-- So may the worker that evaluates it.
local evaluated_until = tonumber(redis.call('ZSCORE', key('evaluations'), id) or '0')
if evaluated_until > NOW then redis.call('ZADD', key('arrivals'), evaluated_until, id) end
redis.call('ZREM', key('evaluations'), id)
local batch = get(id, 'batch')
if batch then redis.call('ZREM', key('batch_jobs', batch), id) end
hold(id, 0)
redis.call('DEL', key('job', id), key('events', id), key('job_deliveries', id))
return {'ok'}
