-- Set aside an unreadable record. A job leaves all queues and indexes, so that no reader finds it again; other kinds are
-- only noted, since their readers skip them. Replies whether it is new in quarantine, and the owner if known.
local id, kind, reason = unpack(ARGV)
local member = kind .. ':' .. id
local owner = ''

if kind == 'job' then
  local record = key('job', id)
  local form = redis.call('TYPE', record).ok
  if form == 'none' then return {'none'} end
  if form == 'hash' then
    owner = string.match(redis.call('HGET', record, 'owner') or '', '^%x+$') or ''
    withdraw_fetch(id)
  end
  drop_export(id)
  redis.call('RENAME', record, key('quarantined', id))
  leave_line(id)
  for _, line in ipairs({'leases', 'delete_at', 'created', 'evaluations'}) do redis.call('ZREM', key(line), id) end
  -- The key of an earlier version, which no call has used since, is an account that has no record yet
  local owners = owner ~= '' and {owner} or redis.call('ZUNION', 2, key('accounts'), key('api_keys'))
  for _, status in ipairs({'queued', 'running', 'succeeded', 'failed', 'canceled'}) do
    redis.call('ZREM', key('status', status), id)
    for _, each in ipairs(owners) do redis.call('ZREM', key('status', status .. ':' .. each), id) end
  end
  for _, each in ipairs(owners) do
    redis.call('ZREM', key('created', each), id)
    redis.call('SREM', key('live', each), id)
  end
  for _, delivery in ipairs(redis.call('LRANGE', key('job_deliveries', id), 0, -1)) do
    withdraw_delivery(delivery)
  end
  end_split(id)
elseif kind == 'delivery' then
  withdraw_delivery(id)
end

local is_new = redis.call('ZADD', key('quarantine'), 'NX', NOW, member)
if is_new == 1 then
  redis.call('HSET', key('quarantine_notes'), member, cjson.encode({owner = owner, reason = reason}))
  count('quarantined:' .. kind)
end
return {'ok', is_new, owner}
