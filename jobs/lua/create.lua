-- A queued job in one step: record, indexes and deadline; queue and outbox, or the wait for its inputs.
local id, spec, max_attempts, priority, expires_ms, webhook_events = unpack(ARGV, 1, 6)
local idempotency, fingerprint, ttl_ms = unpack(ARGV, 7, 9)
local owner, most_live, request_id, traceparent, arrived, webhook_receiver, fetch_receiver = unpack(ARGV, 10, 16)
-- An item of a batch: its place there. error_json: why it cannot be rendered; it fails as soon as it exists.
local batch, index, error_json, retention_ms, delivery_id, export_receiver = unpack(ARGV, 17, 22)

local stored = get(id, 'spec')
if stored == spec then return {'ok', '1', redis.call('HGETALL', key('job', id))} end
if stored then return {'state', 'the job id is taken by another job'} end

local memory = key('idempotency', idempotency)
if idempotency ~= '' then
  local first, asked = unpack(redis.call('HMGET', memory, 'job_id', 'fingerprint'))
  if first and get(first, 'status') then
    if asked ~= fingerprint then return {'conflict'} end
    return {'ok', '0', redis.call('HGETALL', key('job', first))}
  end
end

if batch ~= '' and redis.call('HGET', key('batch', batch), 'next') ~= index then
  return {'state', 'the item is a job already, or was dropped with its batch'}
end

-- Otherwise the janitor may be deleting the files of this job
if arrived == '1' and not is_awaited('arrivals', id) then return {'late'} end

-- Checked here, so that concurrent submissions cannot exceed the quota
if owner ~= '' and error_json == '' and redis.call('SCARD', key('live', owner)) >= tonumber(most_live) then
  return {'quota'}
end

local seq = redis.call('INCR', key('seq'))
set(id, 'id', id, 'spec', spec, 'status', 'queued', 'seq', seq, 'priority', priority, 'progress', '0', 'attempt', 0,
  'fence', 0, 'max_attempts', max_attempts, 'cancel_requested', '0', 'created_ms', NOW, 'told_percent', 0,
  'told_tenth', 0, 'progress_events', 0, 'webhook_events', webhook_events,
  'webhook_receiver', webhook_receiver, 'export_receiver', export_receiver, 'inputs', 'ready', 'owner', owner,
  'request_id', request_id, 'traceparent', traceparent)
redis.call('ZADD', key('created'), seq, id)
if owner ~= '' then
  redis.call('ZADD', key('created', owner), seq, id)
  redis.call('SADD', key('live', owner), id)
end
redis.call('ZREM', key('arrivals'), id)
move(id, 'queued')
if batch ~= '' then
  set(id, 'batch', batch)
  redis.call('HSET', key('batch', batch), 'next', tonumber(index) + 1, 'tries', 0)
  redis.call('HINCRBY', key('batch', batch), 'queued', 1)
  redis.call('HINCRBY', key('batch_waiting'), owner, -1)
  redis.call('HSET', key('batch_live', batch), id, index)
  redis.call('ZADD', key('batch_jobs', batch), seq, id)
end
if error_json == '' then
  if fetch_receiver == '' then join_line(id) else await_inputs(id, fetch_receiver) end
end
if expires_ms ~= '' then
  local deadline = NOW + tonumber(expires_ms)
  set(id, 'deadline_ms', deadline)
  redis.call('ZADD', key('deadlines'), deadline, id)
end
if idempotency ~= '' then
  redis.call('HSET', memory, 'job_id', id, 'fingerprint', fingerprint)
  redis.call('PEXPIRE', memory, ttl_ms)
end
record_event(id, 'job.queued', {priority = tonumber(priority)})
if error_json ~= '' then fail(id, error_json, retention_ms, delivery_id) end
return {'ok', '1', redis.call('HGETALL', key('job', id))}
