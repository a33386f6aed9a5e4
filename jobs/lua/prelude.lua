-- Shared by the scripts that change a job; jobs/store/base.py says which are without it.

-- 1 % steps of progress make at most 100 events an attempt; the cap holds over many attempts.
local MAX_PROGRESS_EVENTS = 1000
-- Far above what the rules here let a job write: only a guard, it drops the oldest.
local MAX_EVENTS = 5000

local function get(id, field) return redis.call('HGET', key('job', id), field) end

local function set(id, ...) redis.call('HSET', key('job', id), ...) end

-- Counters for /metrics, incremented in the step in which the event happens: exact over all processes.
local function count(name, by) redis.call('HINCRBY', key('counters'), name, by or 1) end

-- A duration into a histogram; the API adds the buckets up. Bounds in seconds, as in jobs/store/operations.py.
local BOUNDS_S = {0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
local function observe(name, ms)
  count(name .. '|sum_ms', ms)
  for _, bound in ipairs(BOUNDS_S) do
    if ms <= bound * 1000 then return count(name .. '|' .. bound) end
  end
  count(name .. '|inf')
end

-- Year and month in UTC of a time in ms since 1970, as 2026-11: days of the Gregorian calendar, counted from March.
local function month_of(ms)
  local day = math.floor(ms / 86400000) + 719468
  local of_era = day % 146097
  local year_of_era = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  local year = math.floor(day / 146097) * 400 + year_of_era + (from_march < 10 and 0 or 1)
  return string.format('%04d-%02d', year, from_march < 10 and from_march + 3 or from_march - 9)
end

-- Totals of an account by month. They outlive its jobs.
local USAGE_MEMORY_MS = 760 * 86400000
local function add_usage(owner, name, by)
  local totals = key('usage', owner .. ':' .. month_of(NOW))
  redis.call('HINCRBY', totals, name, string.format('%.0f', by))
  redis.call('PEXPIRE', totals, USAGE_MEMORY_MS)
end

-- Whether a live worker offers an engine on a CUDA device.
local function has_gpu(worker)
  local is_read, record = pcall(function() return cjson.decode(redis.call('GET', key('worker', worker))) end)
  if not is_read or type(record) ~= 'table' or type(record.engines) ~= 'table' then return false end
  for _, engine in ipairs(record.engines) do
    if type(engine.device) == 'string' and string.find(engine.device, '^cuda') then return true end
  end
  return false
end

-- A worker worked for this long for an owner. on_gpu: '1' or not.
local function add_work(owner, ms, on_gpu)
  add_usage(owner or '', 'worker_ms', math.max(0, ms))
  if on_gpu == '1' then add_usage(owner or '', 'gpu_ms', math.max(0, ms)) end
end

-- Bytes in the object store, by the id that leads the janitor to them: a job, an arrival, an upload. The sums of each
-- owner and of all change in the same step, so that no crash can part them.
local function held_by(id) return tonumber(redis.call('HGET', key('held'), id) or '0') end

local function stored_by(owner) return tonumber(redis.call('HGET', key('stored'), owner) or '0') end

local function hold(id, bytes, owner)
  local change = bytes - held_by(id)
  if change == 0 then return end
  owner = redis.call('HGET', key('holders'), id) or owner or ''
  for _, whose in ipairs(owner ~= '' and {'all', owner} or {'all'}) do
    if redis.call('HINCRBY', key('stored'), whose, string.format('%.0f', change)) == 0 then
      redis.call('HDEL', key('stored'), whose)
    end
  end
  if bytes == 0 then
    redis.call('HDEL', key('held'), id)
    redis.call('HDEL', key('holders'), id)
  else
    redis.call('HSET', key('held'), id, string.format('%.0f', bytes))
    if owner ~= '' then redis.call('HSET', key('holders'), id, owner) end
  end
end

-- In a line of things that end by themselves, and not yet due.
local function is_awaited(line, id)
  local ends = redis.call('ZSCORE', key(line), id)
  return ends and tonumber(ends) > NOW
end

local function is_over(status) return status == 'succeeded' or status == 'failed' or status == 'canceled' end

local function reply_job(id) return {'ok', redis.call('HGETALL', key('job', id))} end

-- Jobs of an API key stand in lines of their own as well, so that a page of them costs what it shows.
local function owner_of(id)
  local owner = get(id, 'owner')
  return owner and owner ~= '' and owner or nil
end

-- The batch that a job is an item of, if it still has a record.
local function batch_of(id)
  local batch = get(id, 'batch')
  return batch and redis.call('EXISTS', key('batch', batch)) == 1 and batch or nil
end

local function move(id, status)
  local was, owner, batch = get(id, 'status'), owner_of(id), batch_of(id)
  if batch then
    if was then redis.call('HINCRBY', key('batch', batch), was, -1) end
    redis.call('HINCRBY', key('batch', batch), status, 1)
  end
  for _, suffix in ipairs(owner and {'', ':' .. owner} or {''}) do
    if was then redis.call('ZREM', key('status', was .. suffix), id) end
    redis.call('ZADD', key('status', status .. suffix), get(id, 'seq'), id)
  end
  set(id, 'status', status)
end

-- Work that waits for somebody else's server: deliveries (kind `webhook`, record `delivery`), fetches of inputs (kind
-- `fetch`, record `job`) and exports of results (kind `export`, record `export`). A receiver is "owner@host:port": one
-- caller's slow server must not hold up another's work at the same host. <kind>_owners, <kind>_receivers:<owner>: when
-- take_shared.lua looks at them next. <kind>_queue:<receiver>: items by the time at which they fall due. A held item stays queued, due again when its hold ends.
local RECORD = {webhook = 'delivery', fetch = 'job', export = 'export'}
local DUE = {webhook = 'webhooks_due', fetch = 'fetches_due', export = 'exports_due'}
local RECEIVER_MEMORY_MS = 7 * 86400000

local function owner_of_receiver(receiver) return string.match(receiver, '^(.-)@') end

local function look_by(kind, receiver, at)
  local owner = owner_of_receiver(receiver)
  redis.call('ZADD', key(kind .. '_receivers', owner), 'LT', at, receiver)
  redis.call('ZADD', key(kind .. '_owners'), 'LT', at, owner)
end

-- place: in the queue of the receiver, where that is not the time at which it falls due.
local function schedule(kind, id, receiver, at, place)
  redis.call('ZADD', key(DUE[kind]), at, id)
  redis.call('ZADD', key(kind .. '_queue', receiver), place or at, id)
  look_by(kind, receiver, at)
end

-- untrusted: 'NX' where the receiver has not proved itself, 'XX' where a hold is renewed, nil where it has.
local function hold_item(kind, id, receiver, hold_until, untrusted)
  redis.call('HSET', key(RECORD[kind], id), 'held_until', hold_until)
  schedule(kind, id, receiver, hold_until)
  redis.call('ZADD', key(kind .. '_held', receiver), hold_until, id)
  redis.call('ZADD', key(kind .. '_held_by', owner_of_receiver(receiver)), hold_until, id)
  if untrusted then redis.call('ZADD', key(kind .. '_held_untrusted'), untrusted, hold_until, id) end
end

local function end_hold(kind, id, receiver)
  redis.call('ZREM', key(kind .. '_held', receiver), id)
  redis.call('ZREM', key(kind .. '_held_by', owner_of_receiver(receiver)), id)
  redis.call('ZREM', key(kind .. '_held_untrusted'), id)
end

local function unschedule(kind, id, receiver)
  redis.call('ZREM', key(DUE[kind]), id)
  redis.call('ZREM', key(kind .. '_queue', receiver), id)
  if redis.call('EXISTS', key(kind .. '_queue', receiver)) == 1 then return end
  local owner = owner_of_receiver(receiver)
  redis.call('ZREM', key(kind .. '_receivers', owner), receiver)
  if redis.call('EXISTS', key(kind .. '_receivers', owner)) == 0 then redis.call('ZREM', key(kind .. '_owners'), owner) end
end

-- How a receiver did, for a week. did: answered, failed, or '' where that says nothing about it. The circuit breaker opens
-- after consecutive failures, for longer each time; after that one probe at a time passes. breaker_ms 0: it never opens.
local function note_receiver(kind, receiver, did, breaker_ms)
  local FAILURES_TO_OPEN, LONGEST_FACTOR = 3, 10
  if did == '' then return end
  local health = key(kind .. '_receiver', receiver)
  if did == 'answered' then
    redis.call('HSET', health, 'failures', 0, 'open_until', 0, 'answered', 1)
  elseif tonumber(redis.call('HGET', health, 'open_until') or '0') <= NOW then
    -- What was under way when it opened does not count again
    local failures = redis.call('HINCRBY', health, 'failures', 1)
    if breaker_ms > 0 and failures >= FAILURES_TO_OPEN then
      local factor = math.min(LONGEST_FACTOR, 2 ^ (failures - FAILURES_TO_OPEN))
      redis.call('HSET', health, 'open_until', string.format('%.0f', NOW + breaker_ms * factor))
      count(kind .. '_breaker:opened')
    end
  end
  redis.call('PEXPIRE', health, RECEIVER_MEMORY_MS)
end

-- Undelivered events are listed by state, for each owner and for all, oldest first. state '': in no list.
local function list_delivery(id, receiver, seq, state)
  local owner = owner_of_receiver(receiver)
  for _, each in ipairs({'pending', 'given_up'}) do
    for _, list in ipairs(owner == '' and {each} or {each, each .. ':' .. owner}) do
      if each == state then
        redis.call('ZADD', key('deliveries', list), seq, id)
      else
        redis.call('ZREM', key('deliveries', list), id)
      end
    end
  end
end

-- Due now, with all its attempts ahead. The number grows, so `deliveries:pending` is in the order of opened_ms.
local function open_delivery(id, receiver, at)
  local seq = redis.call('INCR', key('webhook_seq'))
  redis.call('HSET', key('delivery', id), 'receiver', receiver, 'seq', seq, 'state', 'pending', 'tries', 0,
    'opened_ms', NOW, 'next_ms', at)
  list_delivery(id, receiver, seq, 'pending')
  schedule('webhook', id, receiver, at)
end

local function settle_delivery(id, receiver, state)
  local seq = redis.call('HGET', key('delivery', id), 'seq')
  redis.call('HSET', key('delivery', id), 'state', state, 'next_ms', '', 'held_until', 0, 'holder', '')
  list_delivery(id, receiver, seq, state)
  unschedule('webhook', id, receiver)
end

-- Out of every line and list; the record itself stays. One that cannot be read has no receiver to ask for, and is
-- dropped by whoever meets it.
local function withdraw_delivery(id)
  redis.call('ZREM', key('webhooks_due'), id)
  if redis.call('TYPE', key('delivery', id)).ok ~= 'hash' then return end
  local receiver, seq = unpack(redis.call('HMGET', key('delivery', id), 'receiver', 'seq'))
  if not receiver or not string.find(receiver, '@', 1, true) then return end
  end_hold('webhook', id, receiver)
  unschedule('webhook', id, receiver)
  list_delivery(id, receiver, tonumber(seq) or 0, '')
end

-- What an event tells of a job that still changes. Result, error and numbers come with the end, and stay.
local SNAPSHOT = {'status', 'stage', 'progress', 'attempt', 'cancel_requested', 'started_ms', 'finished_ms', 'delete_ms'}

-- The delivery is created in the same step as the transition, so that no crash can separate them.
local function deliver(id, event, delivery_id)
  local wanted, receiver = unpack(redis.call('HMGET', key('job', id), 'webhook_events', 'webhook_receiver'))
  if delivery_id == '' or not wanted or not string.find(wanted, ' ' .. event .. ' ', 1, true) then return end
  local snapshot = {}
  for i, value in ipairs(redis.call('HMGET', key('job', id), unpack(SNAPSHOT))) do snapshot[SNAPSHOT[i]] = value or '' end
  redis.call('HSET', key('delivery', delivery_id), 'id', delivery_id, 'job_id', id, 'event', event,
    'created_ms', NOW, 'held_until', 0, 'snapshot', cjson.encode(snapshot))
  -- A job of an earlier version has no receiver noted: its owner's deliveries share one line
  open_delivery(delivery_id, receiver or (get(id, 'owner') or '') .. '@', NOW)
  redis.call('RPUSH', key('job_deliveries', id), delivery_id)
end

local function record_event(id, event, detail)
  local status, stage, progress = unpack(redis.call('HMGET', key('job', id), 'status', 'stage', 'progress'))
  redis.call('XADD', key('events', id), 'MAXLEN', '~', MAX_EVENTS, '*', 'event', event, 'at', NOW,
    'status', status, 'stage', stage or '', 'progress', progress, 'detail', cjson.encode(detail))
  redis.call('PUBLISH', key('changes'), id .. ' ' .. status)
end

local function leave_line(id)
  for _, line in ipairs({'waiting', 'outbox', 'sent', 'deadlines'}) do redis.call('ZREM', key(line), id) end
end

-- Score: priority class first, then the number given at creation, so that a job handed back keeps its place.
local function join_line(id)
  local class = 2 - tonumber(get(id, 'priority'))
  redis.call('ZADD', key('waiting'), class * 2 ^ 50 + tonumber(get(id, 'seq')), id)
  redis.call('ZADD', key('outbox'), NOW, id)
end

-- A job whose inputs are addresses (`inputs` is `wanted`) waits for a fetch before it joins the line. Among the jobs of one
-- receiver a higher priority goes first.
local function await_inputs(id, receiver)
  set(id, 'inputs', 'wanted', 'fetch_receiver', receiver, 'held_until', 0, 'holder', '', 'arrived_bytes', held_by(id))
  schedule('fetch', id, receiver, NOW, NOW - tonumber(get(id, 'priority')) * 1e12)
end

local function holds_fetch(id, holder)
  local status, inputs, holding = unpack(redis.call('HMGET', key('job', id), 'status', 'inputs', 'holder'))
  return status == 'queued' and inputs == 'wanted' and holding == holder
end

-- Out of every line, e.g. because the record cannot be read.
local function withdraw_fetch(id)
  local receiver = get(id, 'fetch_receiver')
  if not receiver or not string.find(receiver, '@', 1, true) then return end
  end_hold('fetch', id, receiver)
  unschedule('fetch', id, receiver)
end

-- The job ends before its inputs are there. A fetch that was begun stays due: who holds it now, or takes it after a fetcher
-- that died, deletes what was stored.
local function end_unbegun_fetch(id)
  local inputs, receiver, fence = unpack(redis.call('HMGET', key('job', id), 'inputs', 'fetch_receiver', 'fetch_fence'))
  if inputs == 'wanted' and not fence then unschedule('fetch', id, receiver) end
end

-- The result of a job is to be put where its caller wants it. The record has the job's id.
local function begin_export(id)
  local receiver = get(id, 'export_receiver')
  if not receiver or receiver == '' then return end
  redis.call('HSET', key('export', id), 'id', id, 'state', 'pending', 'receiver', receiver, 'holder', '', 'held_until', 0,
    'tries', 0, 'next_ms', NOW, 'error', '', 'key', '', 'finished_ms', '')
  schedule('export', id, receiver, NOW)
end

-- The job is deleted. A copy in the object store is deleted by the janitor, once nobody can be writing it any more.
local function drop_export(id)
  local record = key('export', id)
  if redis.call('TYPE', record).ok ~= 'hash' then return end
  local receiver, copy, held_until = unpack(redis.call('HMGET', record, 'receiver', 'key', 'held_until'))
  if receiver then
    end_hold('export', id, receiver)
    unschedule('export', id, receiver)
  end
  if copy and copy ~= '' then
    redis.call('HSET', key('exported'), id, copy)
    redis.call('ZADD', key('exported_files'), math.max(NOW, tonumber(held_until) or 0), id)
  end
  redis.call('DEL', record, key('attempts', id))
end

local function holds_export(id, holder)
  local state, holding = unpack(redis.call('HMGET', key('export', id), 'state', 'holder'))
  return state == 'pending' and holding == holder
end

-- Where the batches of an account are listed, by creation number: with those of all, and on their own.
local function batch_lists(owner)
  if not owner or owner == '' then return {key('batches')} end
  return {key('batches'), key('batches', owner)}
end

-- A batch is not fed any more.
local function close_batch(batch, owner)
  redis.call('ZREM', key('batches_open', owner), batch)
  if redis.call('EXISTS', key('batches_open', owner)) == 0 then redis.call('SREM', key('batch_owners'), owner) end
end

-- A batch is over when all its items became jobs (or were dropped by a cancel), and none of these is live. Its event has an
-- id made from its own: there is only one.
local function end_batch(batch)
  local record = key('batch', batch)
  local status, owner, total, next_index, canceled, retention_ms, receiver = unpack(redis.call('HMGET', record,
    'status', 'owner', 'total', 'next', 'cancel_requested', 'retention_ms', 'webhook_receiver'))
  if status ~= 'running' or tonumber(next_index) < tonumber(total) then return end
  if redis.call('HLEN', key('batch_live', batch)) > 0 then return end
  local delete_ms = NOW + tonumber(retention_ms)
  redis.call('HSET', record, 'status', canceled == '1' and 'canceled' or 'completed', 'finished_ms', NOW,
    'delete_ms', delete_ms)
  redis.call('DEL', key('batch_items', batch))
  close_batch(batch, owner)
  redis.call('ZADD', key('batches_over'), delete_ms, batch)
  if receiver == '' then return end
  local delivery = 'whd_' .. string.sub(batch, #'batch_' + 1)
  redis.call('HSET', key('delivery', delivery), 'id', delivery, 'batch_id', batch, 'event', 'batch.completed',
    'created_ms', NOW, 'held_until', 0)
  open_delivery(delivery, receiver, NOW)
  redis.call('RPUSH', key('job_deliveries', batch), delivery)
end

-- A job of a batch is over. The reason of a failure outlives the job.
local function leave_batch(batch, id, status, error)
  local index = redis.call('HGET', key('batch_live', batch), id)
  if not index then return end
  redis.call('HDEL', key('batch_live', batch), id)
  if status == 'failed' then
    redis.call('HSET', key('batch_failures', batch), index,
      cjson.encode({index = tonumber(index), job_id = id, code = error.code, message = error.message}))
  end
  end_batch(batch)
end

-- Helpers that still render find nothing to finish; the janitor deletes the files of the segments.
local function end_split(id)
  if redis.call('DEL', key('split', id), key('segments', id)) > 0 then
    redis.call('ZADD', key('split_files'), NOW, id)
  end
end

-- The wall time of the stage that ends now; a stage begins when it is first told.
local function end_stage(id)
  local stage, began = unpack(redis.call('HMGET', key('job', id), 'stage', 'stage_began_ms'))
  if stage and stage ~= '' and began then observe('stage:' .. stage, math.max(0, NOW - tonumber(began))) end
  set(id, 'stage_began_ms', NOW)
end

-- A stage and a progress (0..1, never falling) of a job. Events are thinned to 1 % steps, webhooks to 10 % steps.
local function tell_progress(id, stage, progress, delivery_id)
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

-- The attempt of a job ends. A worker that was lost counts until its lease ended.
local function end_work(id)
  local status, began, on_gpu = unpack(redis.call('HMGET', key('job', id), 'status', 'started_ms', 'on_gpu'))
  if status ~= 'running' or not tonumber(began or '') then return end
  local lease_ends = tonumber(redis.call('ZSCORE', key('leases'), id) or NOW)
  add_work(owner_of(id), math.min(NOW, lease_ends) - tonumber(began), on_gpu)
end

-- A worker stops working on a segment. What the job's own worker does is part of its attempt.
local function end_segment_work(id, number)
  local began, worker, on_gpu = unpack(redis.call('HMGET', key('split', id), 'began:' .. number, 'worker:' .. number,
    'gpu:' .. number))
  if began and worker ~= get(id, 'worker') then add_work(owner_of(id), NOW - tonumber(began), on_gpu) end
end

-- The only way into a terminal state. Callers have checked that the job is live.
local function finish(id, status, retention_ms, delivery_id, detail)
  leave_line(id)
  end_work(id)
  add_usage(owner_of(id) or '', status, 1)
  redis.call('ZREM', key('leases'), id)
  move(id, status)
  local owner = owner_of(id)
  if owner then redis.call('SREM', key('live', owner), id) end
  local delete_ms = NOW + tonumber(retention_ms)
  set(id, 'finished_ms', NOW, 'delete_ms', delete_ms, 'stage', '')
  end_split(id)
  end_unbegun_fetch(id)
  redis.call('ZADD', key('delete_at'), delete_ms, id)
  count('finished:' .. status)
  record_event(id, 'job.' .. status, detail)
  deliver(id, 'job.' .. status, delivery_id)
  local batch = batch_of(id)
  if batch then leave_batch(batch, id, status, detail) end
end

local function fail(id, error_json, retention_ms, delivery_id)
  local error = cjson.decode(error_json)
  set(id, 'error', error_json)
  count('failed:' .. error.code)
  finish(id, 'failed', retention_ms, delivery_id, {code = error.code, message = error.message})
end

-- A job whose attempt ended without an outcome: canceled if that was asked, failed when the attempts are used up,
-- else back to its place in the line.
local function give_back(id, reason, error_json, retention_ms, delivery_id)
  local attempt, most = tonumber(get(id, 'attempt')), tonumber(get(id, 'max_attempts'))
  if get(id, 'cancel_requested') == '1' then
    finish(id, 'canceled', retention_ms, delivery_id, {reason = reason})
  elseif attempt >= most then
    fail(id, error_json, retention_ms, delivery_id)
  else
    end_work(id)
    redis.call('ZREM', key('leases'), id)
    move(id, 'queued')
    set(id, 'worker', '', 'stage', '', 'progress', '0', 'started_ms', '')
    join_line(id)
    count('requeued:' .. reason)
    record_event(id, 'job.requeued', {reason = reason, attempt = attempt})
  end
end

-- 'held': this lease is the newest and the job runs. 'repeated': this very call was done before and its reply got
-- lost. 'lost': anything else.
local function lease_state(id, fence, worker, verb)
  local status, newest, holder, closed =
    unpack(redis.call('HMGET', key('job', id), 'status', 'fence', 'worker', 'closed'))
  if status == 'running' and newest == fence and holder == worker then return 'held' end
  if closed and closed == fence .. ':' .. verb then return 'repeated' end
  return 'lost'
end

-- The evaluation of a job that succeeded without waiting for it. `evaluations`: by the time at which its lease ends, or at
-- which the janitor sends the next message for it.
local function hold_evaluation(id, worker, token, lease_ms)
  redis.call('HINCRBY', key('job', id), 'evaluation_fence', 1)
  redis.call('HINCRBY', key('job', id), 'evaluation_attempt', 1)
  set(id, 'evaluation_state', 'pending', 'evaluation_holder', worker, 'evaluation_token', token, 'evaluation_sent', 0,
    'evaluation_began_ms', NOW, 'evaluation_on_gpu', has_gpu(worker) and '1' or '0')
  redis.call('ZADD', key('evaluations'), NOW + tonumber(lease_ms), id)
end

local function end_evaluation_work(id)
  local began, on_gpu = unpack(redis.call('HMGET', key('job', id), 'evaluation_began_ms', 'evaluation_on_gpu'))
  if began then add_work(owner_of(id), NOW - tonumber(began), on_gpu) end
end

local function holds_evaluation(id, fence)
  local state, newest, holder =
    unpack(redis.call('HMGET', key('job', id), 'evaluation_state', 'evaluation_fence', 'evaluation_holder'))
  return state == 'pending' and newest == fence and holder ~= ''
end

local function holds_segment(id, number, fence)
  local held = redis.call('HGET', key('split', id), 'held:' .. number)
  return held and held == fence
end
