-- An attempt to export a result has ended. state: done, failed (with an error), or pending: due again after pause_ms. did: as
-- in note_receiver. bytes: of a copy in the object store. A repeated call finds its own entry at the end of the log.
local id, holder, attempt, state, error_json, pause_ms, did, bytes, delivery_id = unpack(ARGV)
local record, log = key('export', id), key('attempts', id)
if redis.call('EXISTS', record) == 0 then return {'missing'} end
if redis.call('LINDEX', log, -1) == attempt then return {'ok'} end
if not holds_export(id, holder) then return {'lost'} end
local receiver = redis.call('HGET', record, 'receiver')
redis.call('RPUSH', log, attempt)
redis.call('LTRIM', log, -50, -1)
count('export:' .. state)
note_receiver('export', receiver, did, 0)
end_hold('export', id, receiver)
unschedule('export', id, receiver)
redis.call('HSET', record, 'state', state, 'holder', '', 'held_until', 0, 'error', error_json)
if state == 'pending' then
  local next_ms = NOW + tonumber(pause_ms)
  redis.call('HSET', record, 'next_ms', next_ms)
  schedule('export', id, receiver, next_ms)
else
  redis.call('HSET', record, 'finished_ms', NOW)
  if get(id, 'status') then
    if state == 'done' then hold(id, held_by(id) + tonumber(bytes), owner_of(id)) end
    record_event(id, 'job.exported', {state = state})
    deliver(id, 'job.exported', delivery_id)
  end
end
if redis.call('EXISTS', key('export_queue', receiver)) == 1 then look_by('export', receiver, NOW) end
return {'ok'}
