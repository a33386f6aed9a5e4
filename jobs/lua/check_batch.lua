-- Jobs of the batch whose record is gone (unreadable, or lost) count as failed, so that the batch ends without them.
local id, error_json = unpack(ARGV)
local record, live = key('batch', id), key('batch_live', id)
if redis.call('EXISTS', record) == 0 then return {'missing'} end
local counts, lost = {queued = 0, running = 0}, {}
for _, job in ipairs(redis.call('HKEYS', live)) do
  local status = get(job, 'status')
  if status then counts[status] = (counts[status] or 0) + 1 else lost[#lost + 1] = job end
end
if #lost == 0 then return {'ok', 0} end
redis.call('HSET', record, 'queued', counts.queued, 'running', counts.running)
redis.call('HINCRBY', record, 'failed', #lost)
for _, job in ipairs(lost) do leave_batch(id, job, 'failed', cjson.decode(error_json)) end
return {'ok', #lost}
