-- Shared by all scripts. KEYS[1] is the key prefix; its hash tag keeps all keys in one cluster slot.
-- Replies are lists whose first item is the outcome; jobs/store/base.py turns it into a value or an error.
-- A field that holds '' means "none".
local P = KEYS[1]
local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- 1 % steps of progress make at most 100 events an attempt; the cap holds over many attempts.
local MAX_PROGRESS_EVENTS = 1000
-- Far above what the rules here let a job write: only a guard, it drops the oldest.
local MAX_EVENTS = 5000

local function key(kind, id)
  if id then return P .. kind .. ':' .. id end
  return P .. kind
end

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

local function move(id, status)
  local was, owner = get(id, 'status'), owner_of(id)
  for _, suffix in ipairs(owner and {'', ':' .. owner} or {''}) do
    if was then redis.call('ZREM', key('status', was .. suffix), id) end
    redis.call('ZADD', key('status', status .. suffix), get(id, 'seq'), id)
  end
  set(id, 'status', status)
end

-- Webhooks. A receiver is "owner@host:port": one caller's slow receiver must not hold up another's at the same host.
-- webhook_owners, webhook_receivers:<owner>: when the dispatcher looks at them next. webhook_queue:<receiver>: deliveries
-- by the time at which they fall due. A held delivery stays queued, due again when its hold ends.
local function owner_of_receiver(receiver) return string.match(receiver, '^(.-)@') end

local function look_by(receiver, at)
  local owner = owner_of_receiver(receiver)
  redis.call('ZADD', key('webhook_receivers', owner), 'LT', at, receiver)
  redis.call('ZADD', key('webhook_owners'), 'LT', at, owner)
end

local function schedule_delivery(id, receiver, at)
  redis.call('ZADD', key('webhooks_due'), at, id)
  redis.call('ZADD', key('webhook_queue', receiver), at, id)
  look_by(receiver, at)
end

local function end_hold(id, receiver)
  redis.call('ZREM', key('webhook_held', receiver), id)
  redis.call('ZREM', key('webhook_held_by', owner_of_receiver(receiver)), id)
  redis.call('ZREM', key('webhook_held_untrusted'), id)
end

local function unschedule_delivery(id, receiver)
  redis.call('ZREM', key('webhooks_due'), id)
  redis.call('ZREM', key('webhook_queue', receiver), id)
  if redis.call('EXISTS', key('webhook_queue', receiver)) == 1 then return end
  local owner = owner_of_receiver(receiver)
  redis.call('ZREM', key('webhook_receivers', owner), receiver)
  if redis.call('EXISTS', key('webhook_receivers', owner)) == 0 then redis.call('ZREM', key('webhook_owners'), owner) end
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
  schedule_delivery(id, receiver, at)
end

local function settle_delivery(id, receiver, state)
  local seq = redis.call('HGET', key('delivery', id), 'seq')
  redis.call('HSET', key('delivery', id), 'state', state, 'next_ms', '', 'held_until', 0, 'holder', '')
  list_delivery(id, receiver, seq, state)
  unschedule_delivery(id, receiver)
end

-- Out of every line and list; the record itself stays. One that cannot be read has no receiver to ask for, and is
-- dropped by whoever meets it.
local function withdraw_delivery(id)
  redis.call('ZREM', key('webhooks_due'), id)
  if redis.call('TYPE', key('delivery', id)).ok ~= 'hash' then return end
  local receiver, seq = unpack(redis.call('HMGET', key('delivery', id), 'receiver', 'seq'))
  if not receiver or not string.find(receiver, '@', 1, true) then return end
  end_hold(id, receiver)
  unschedule_delivery(id, receiver)
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

-- The only way into a terminal state. Callers have checked that the job is live.
local function finish(id, status, retention_ms, delivery_id, detail)
  leave_line(id)
  redis.call('ZREM', key('leases'), id)
  move(id, status)
  local owner = owner_of(id)
  if owner then redis.call('SREM', key('live', owner), id) end
  local delete_ms = NOW + tonumber(retention_ms)
  set(id, 'finished_ms', NOW, 'delete_ms', delete_ms, 'stage', '')
  end_split(id)
  redis.call('ZADD', key('delete_at'), delete_ms, id)
  count('finished:' .. status)
  record_event(id, 'job.' .. status, detail)
  deliver(id, 'job.' .. status, delivery_id)
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
  redis.call('ZREM', key('leases'), id)
  local attempt, most = tonumber(get(id, 'attempt')), tonumber(get(id, 'max_attempts'))
  if get(id, 'cancel_requested') == '1' then
    finish(id, 'canceled', retention_ms, delivery_id, {reason = reason})
  elseif attempt >= most then
    fail(id, error_json, retention_ms, delivery_id)
  else
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

local function holds_segment(id, number, fence)
  local held = redis.call('HGET', key('split', id), 'held:' .. number)
  return held and held == fence
end
