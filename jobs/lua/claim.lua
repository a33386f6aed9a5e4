-- A queued job becomes running under a new lease. The token makes a repeated call (lost reply) find its own lease.
local id, worker, lease_ms, token, delivery_id, retention_ms, deadline_error = unpack(ARGV)

local status = get(id, 'status')
if status == 'running' and get(id, 'claim_token') == token then
  return {'ok', tonumber(get(id, 'fence')), tonumber(get(id, 'attempt'))}
end
if status ~= 'queued' then return {'none'} end

-- The deadline limits waiting: a job that was started once has met it.
local is_first = not get(id, 'first_started_ms')
local deadline = tonumber(get(id, 'deadline_ms') or '')
if is_first and deadline and deadline <= NOW then
  fail(id, deadline_error, retention_ms, delivery_id)
  return {'none'}
end

-- A record of a version whose workers fetched: its inputs come first.
local function names_addresses()
  local spec = cjson.decode(get(id, 'spec'))
  return spec.video.kind == 'url' or spec.audio.kind == 'url'
end
if not get(id, 'inputs') and names_addresses() then
  for _, line in ipairs({'waiting', 'outbox', 'sent'}) do redis.call('ZREM', key(line), id) end
  await_inputs(id, (get(id, 'owner') or '') .. '@')
end
if get(id, 'inputs') == 'wanted' then return {'none'} end

local attempt = redis.call('HINCRBY', key('job', id), 'attempt', 1)
local fence = redis.call('HINCRBY', key('job', id), 'fence', 1)
leave_line(id)
move(id, 'running')
set(id, 'worker', worker, 'claim_token', token, 'started_ms', NOW, 'stage', '', 'on_gpu', has_gpu(worker) and '1' or '0')
-- What fetching had reached stays
if not is_first then set(id, 'progress', '0', 'told_percent', 0) end
redis.call('ZADD', key('leases'), NOW + tonumber(lease_ms), id)
record_event(id, 'job.started', {attempt = attempt})
-- Receivers are notified of the first start only: later attempts are internal.
if is_first then
  set(id, 'first_started_ms', NOW)
  observe('wait:' .. get(id, 'priority'), math.max(0, NOW - tonumber(get(id, 'created_ms'))))
  deliver(id, 'job.started', delivery_id)
end
return {'ok', fence, attempt}
