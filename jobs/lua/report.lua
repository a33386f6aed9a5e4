-- Renew the lease; with a stage, store the progress. Events are thinned to 1 % steps, webhooks to 10 % steps.
local id, fence, worker, lease_ms, stage, progress, delivery_id = unpack(ARGV)
if lease_state(id, fence, worker, '') ~= 'held' then return {'lost'} end
redis.call('ZADD', key('leases'), NOW + tonumber(lease_ms), id)

if stage ~= '' then
  local old_stage, old, percent, tenth, written = unpack(redis.call('HMGET', key('job', id),
    'stage', 'progress', 'told_percent', 'told_tenth', 'progress_events'))
  if stage ~= old_stage then end_stage(id) end
  local now_at = math.max(tonumber(progress), tonumber(old))
  if tonumber(progress) > tonumber(old) then set(id, 'progress', progress) end
  set(id, 'stage', stage)
  -- 0.29 * 100 is 28.999..: the small term keeps whole steps whole
  local new_percent, new_tenth = math.floor(now_at * 100 + 1e-6), math.floor(now_at * 10 + 1e-6)
  if (stage ~= old_stage or new_percent > tonumber(percent)) and tonumber(written) < MAX_PROGRESS_EVENTS then
    set(id, 'told_percent', new_percent, 'progress_events', tonumber(written) + 1)
    record_event(id, 'job.progress', {attempt = tonumber(get(id, 'attempt'))})
  end
  if new_tenth > tonumber(tenth) then
    set(id, 'told_tenth', new_tenth)
    deliver(id, 'job.progress', delivery_id)
  end
end
return {'ok', get(id, 'cancel_requested')}
