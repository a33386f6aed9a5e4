-- A worker returns its job to the queue, with or without counting the attempt.
local id, fence, worker, counts, retention_ms, delivery_id, lost_error = unpack(ARGV)
local state = lease_state(id, fence, worker, 'release')
if state == 'repeated' then return reply_job(id) end
if state == 'lost' then return {'lost'} end
if counts == '0' then redis.call('HINCRBY', key('job', id), 'attempt', -1) end
give_back(id, 'released', lost_error, retention_ms, delivery_id)
set(id, 'closed', fence .. ':release')
return reply_job(id)
