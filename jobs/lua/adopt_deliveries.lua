-- Deliveries of a version that had no queues per receiver: into the queue of their owner, due as before.
local limit = tonumber(ARGV[2])
local adopted = 0
for _, id in ipairs(redis.call('ZRANGE', key('webhooks_due'), 0, -1)) do
  local job, receiver = unpack(redis.call('HMGET', key('delivery', id), 'job_id', 'receiver'))
  if job and not receiver and adopted < limit then
    open_delivery(id, (get(job, 'owner') or '') .. '@', tonumber(redis.call('ZSCORE', key('webhooks_due'), id)))
    adopted = adopted + 1
  end
end
return {'ok', adopted}
