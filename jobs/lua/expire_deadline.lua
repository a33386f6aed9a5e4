-- The janitor found a deadline that passed while the job was queued.
local id, retention_ms, delivery_id, deadline_error = unpack(ARGV)
local deadline = tonumber(redis.call('ZSCORE', key('deadlines'), id) or '')
if not deadline or deadline > NOW then return {'none'} end
redis.call('ZREM', key('deadlines'), id)
if get(id, 'status') ~= 'queued' then return {'none'} end
fail(id, deadline_error, retention_ms, delivery_id)
return reply_job(id)
