-- Hold due items of a kind for hold_ms, fairly: owners take turns, and so do the receivers of each. After the hold an item
-- is due again by itself. free: how many the caller can work on now; slots: how many it can work on at all. per_untrusted:
-- at once at a receiver that has not answered yet, or failed last.
local holder, kind = unpack(ARGV)
local free, slots, hold_ms, per_receiver, per_untrusted =
  tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local MAX_STEPS = 500
local RETRY_MS = 100
local taken, steps, turn = {}, 0, 0
local untrusted, owners = key(kind .. '_held_untrusted'), key(kind .. '_owners')
redis.call('ZREMRANGEBYSCORE', untrusted, '-inf', NOW)

-- Behind everybody who is due: a fraction of a millisecond for each turn keeps the order within one call.
local function behind()
  turn = turn + 1
  return NOW + turn / 1000
end

local function first_score(set)
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end

-- The id of an item of this receiver that may be worked on now, or nil; and when to look at the receiver again, if ever.
local function next_of(receiver)
  local failures, open_until, answered =
    unpack(redis.call('HMGET', key(kind .. '_receiver', receiver), 'failures', 'open_until', 'answered'))
  if tonumber(open_until or '0') > NOW then return nil, tonumber(open_until) end
  local held = key(kind .. '_held', receiver)
  redis.call('ZREMRANGEBYSCORE', held, '-inf', NOW)
  -- Few at a time until it has answered, and again after a failure: what hangs holds few slots
  local is_trusted = answered == '1' and (failures or '0') == '0'
  if redis.call('ZCARD', held) >= (is_trusted and per_receiver or per_untrusted) then return nil, first_score(held) end
  -- A quarter of the slots is kept for receivers that answer
  if not is_trusted and redis.call('ZCARD', untrusted) * 4 >= slots * 3 then return nil, NOW + RETRY_MS end
  local queue = key(kind .. '_queue', receiver)
  local id = redis.call('ZRANGEBYSCORE', queue, '-inf', NOW, 'LIMIT', 0, 1)[1]
  if not id then return nil, first_score(queue) end
  return id, behind(), is_trusted
end

local function take_from(owner)
  local receivers, held = key(kind .. '_receivers', owner), key(kind .. '_held_by', owner)
  redis.call('ZREMRANGEBYSCORE', held, '-inf', NOW)
  -- No more than is left free for the others: alone half of the slots, two owners a third each, and so on
  if owner ~= '' and redis.call('ZCARD', held) >= free then
    redis.call('ZADD', owners, behind(), owner)
    return false
  end
  while steps < MAX_STEPS do
    steps = steps + 1
    local receiver = redis.call('ZRANGEBYSCORE', receivers, '-inf', NOW + 1, 'LIMIT', 0, 1)[1]
    if not receiver then break end
    local id, again, is_trusted = next_of(receiver)
    if again then redis.call('ZADD', receivers, again, receiver) else redis.call('ZREM', receivers, receiver) end
    if id and redis.call('TYPE', key(RECORD[kind], id)).ok ~= 'hash' then
      -- Told without its record, so that the caller sets it aside; it must not come again, nor hold up the others
      unschedule(kind, id, receiver)
      redis.call('ZADD', owners, behind(), owner)
      taken[#taken + 1] = {{'id', id}, {}}
      return true
    end
    if id then
      local record = key(RECORD[kind], id)
      redis.call('HSET', record, 'holder', holder)
      if kind == 'export' then redis.call('HINCRBY', record, 'tries', 1) end
      if kind == 'fetch' then
        redis.call('HINCRBY', record, 'fetch_fence', 1)
        redis.call('HINCRBY', record, 'fetch_tries', 1)
      end
      hold_item(kind, id, receiver, NOW + hold_ms, not is_trusted and 'NX' or nil)
      redis.call('ZADD', owners, behind(), owner)
      taken[#taken + 1] = {redis.call('HGETALL', record), redis.call('LRANGE', key('attempts', id), 0, -1)}
      free = free - 1
      return true
    end
  end
  local again = first_score(receivers)
  if again then
    redis.call('ZADD', owners, again, owner)
  else
    redis.call('ZREM', owners, owner)
  end
  return false
end

local took = true
while took and free > 0 and steps < MAX_STEPS do
  took = false
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', owners, '-inf', NOW + 1, 'LIMIT', 0, MAX_STEPS)) do
    if free > 0 and steps < MAX_STEPS and take_from(owner) then took = true end
  end
end
return {'ok', taken}
