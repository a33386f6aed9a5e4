-- Delete a record in quarantine and everything attached to it.
local id, kind = unpack(ARGV)
local member = kind .. ':' .. id
if redis.call('ZREM', key('quarantine'), member) == 0 then return {'missing'} end
redis.call('HDEL', key('quarantine_notes'), member)
if kind == 'job' then
  for _, delivery in ipairs(redis.call('LRANGE', key('job_deliveries', id), 0, -1)) do
    redis.call('DEL', key('delivery', delivery), key('attempts', delivery))
  end
  hold(id, 0)
  redis.call('DEL', key('quarantined', id), key('events', id), key('job_deliveries', id))
elseif kind == 'delivery' then
  redis.call('DEL', key('delivery', id), key('attempts', id))
elseif kind == 'api_key' then
  redis.call('DEL', key('api_key', id))
  redis.call('ZREM', key('api_keys'), id)
elseif kind == 'account' then
  redis.call('DEL', key('account', id))
  redis.call('ZREM', key('accounts'), id)
elseif kind == 'worker' then
  redis.call('DEL', key('worker', id))
  redis.call('ZREM', key('workers'), id)
end
return {'ok'}
