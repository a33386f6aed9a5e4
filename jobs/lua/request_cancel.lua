-- queued: canceled at once. running: a flag that the worker reads. over: as it is.
local id, retention_ms, delivery_id = unpack(ARGV)
local status = get(id, 'status')
if not status then return {'missing'} end
if status == 'queued' then
  set(id, 'cancel_requested', '1')
  finish(id, 'canceled', retention_ms, delivery_id, {reason = 'cancel_requested'})
elseif status == 'running' then
  set(id, 'cancel_requested', '1')
end
return reply_job(id)
