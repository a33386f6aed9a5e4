-- A worker ends its job: verb is succeed, fail or cancel. evaluation_lease_ms: the evaluation is still to be made, and this
-- worker holds it for so long; '': there is none to come. render: '' for an analysis.
local id, fence, worker, verb, retention_ms, delivery_id = unpack(ARGV, 1, 6)
local result, render, evaluation, error_json, evaluation_lease_ms = unpack(ARGV, 7, 11)

local state = lease_state(id, fence, worker, verb)
if state == 'repeated' then return reply_job(id) end
if state == 'lost' then return {'lost'} end

if verb == 'succeed' then
  if get(id, 'cancel_requested') == '1' then return {'state', 'a cancel was asked for before the job succeeded'} end
  local run_ms = NOW - tonumber(get(id, 'started_ms'))
  end_stage(id)
  observe('run', math.max(0, run_ms))
  local made = cjson.decode(result)
  if render ~= '' then
    local mean = tonumber(redis.call('GET', key('mean_run_ms')) or '')
    -- Exponential mean over about the last five renders: follows a change of load, robust against single outliers
    redis.call('SET', key('mean_run_ms'), string.format('%.0f', mean and (0.8 * mean + 0.2 * run_ms) or run_ms))
    local cache = cjson.decode(render).face_cache
    if type(cache) == 'string' then count('face_cache:' .. cache) end
    add_usage(owner_of(id) or '', 'video_ms', made.duration_s * 1000)
  end
  add_usage(owner_of(id) or '', 'result_bytes', made.size_bytes)
  hold(id, held_by(id) + made.size_bytes, owner_of(id))
  set(id, 'result', result, 'render', render, 'evaluation', evaluation, 'progress', '1', 'error', '')
  local detail = {attempt = tonumber(get(id, 'attempt'))}
  if evaluation_lease_ms ~= '' then
    hold_evaluation(id, worker, '', evaluation_lease_ms)
    detail.evaluation_pending = true
  end
  begin_export(id)
  finish(id, 'succeeded', retention_ms, delivery_id, detail)
elseif verb == 'fail' then
  fail(id, error_json, retention_ms, delivery_id)
else
  finish(id, 'canceled', retention_ms, delivery_id, {reason = 'cancel_requested'})
end
set(id, 'closed', fence .. ':' .. verb)
return reply_job(id)
