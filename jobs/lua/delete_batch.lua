-- Delete a batch that is over, with its event. Its jobs stay until their own retention ends.
local id = ARGV[1]
local status, owner = unpack(redis.call('HMGET', key('batch', id), 'status', 'owner'))
if not status then
  redis.call('ZREM', key('batches_over'), id)
  return {'missing'}
end
if status == 'running' then return {'state', 'the batch is running; cancel it first'} end
for _, delivery in ipairs(redis.call('LRANGE', key('job_deliveries', id), 0, -1)) do
  withdraw_delivery(delivery)
  redis.call('DEL', key('delivery', delivery), key('attempts', delivery))
end
redis.call('ZREM', key('batches_over'), id)
for _, list in ipairs(batch_lists(owner)) do redis.call('ZREM', list, id) end
redis.call('DEL', key('batch', id), key('batch_items', id), key('batch_live', id), key('batch_jobs', id),
  key('batch_failures', id), key('job_deliveries', id))
return {'ok'}
