-- A fetcher lets go of a job. verb: ready (outcome: the stored inputs), fail (outcome: the error), release (due again after
-- pause_ms; outcome: the error of this attempt, if it had one), drop (the job went on without it). did: how the receiver did, as in note_receiver.
local id, holder, verb, outcome, did, pause_ms, counts, retention_ms, delivery_id = unpack(ARGV)
if not get(id, 'status') then return {'missing'} end
-- A repeated call, whose reply got lost
if verb == 'ready' and get(id, 'fetched') == outcome then return reply_job(id) end
if verb == 'fail' and get(id, 'status') == 'failed' and get(id, 'error') == outcome then return reply_job(id) end
if get(id, 'inputs') ~= 'wanted' or get(id, 'holder') ~= holder then return {'lost'} end

local receiver, is_live = get(id, 'fetch_receiver'), get(id, 'status') == 'queued'
end_hold('fetch', id, receiver)
unschedule('fetch', id, receiver)
note_receiver('fetch', receiver, did, 0)
set(id, 'holder', '', 'held_until', 0)
-- What was reserved for the files is free again: they are deleted
if verb ~= 'ready' or not is_live then hold(id, tonumber(get(id, 'arrived_bytes'))) end

if not is_live then
  set(id, 'inputs', 'dropped')
elseif verb == 'release' or verb == 'drop' then
  if outcome ~= '' then set(id, 'fetch_error', outcome) end
  if counts == '0' then redis.call('HINCRBY', key('job', id), 'fetch_tries', -1) end
  end_stage(id)
  set(id, 'stage', '')
  schedule('fetch', id, receiver, NOW + tonumber(pause_ms))
elseif verb == 'fail' then
  end_stage(id)
  set(id, 'inputs', 'dropped')
  fail(id, outcome, retention_ms, delivery_id)
elseif verb == 'ready' then
  end_stage(id)
  set(id, 'inputs', 'ready', 'fetched', outcome, 'stage', '')
  join_line(id)
  -- Listeners see that the stage is over: the job waits for a worker now
  record_event(id, 'job.progress', {attempt = 0})
end
if redis.call('EXISTS', key('fetch_queue', receiver)) == 1 then look_by('fetch', receiver, NOW) end
if is_live or verb == 'drop' then return reply_job(id) end
return {'lost'}
