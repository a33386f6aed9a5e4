-- The janitor found an expired lease; checked again here, since the worker may have renewed it.
local id, retention_ms, delivery_id, lost_error = unpack(ARGV)
local expiry = tonumber(redis.call('ZSCORE', key('leases'), id) or '')
if not expiry or expiry > NOW then return {'none'} end
if get(id, 'status') ~= 'running' then
  redis.call('ZREM', key('leases'), id)
  return {'none'}
end
give_back(id, 'worker_lost', lost_error, retention_ms, delivery_id)
return reply_job(id)
