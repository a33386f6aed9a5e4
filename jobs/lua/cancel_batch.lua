-- Items that are not yet jobs are dropped. Replies the ids of the live jobs, which the caller cancels one by one.
local id = ARGV[1]
local record = key('batch', id)
local status, total, next_index, owner = unpack(redis.call('HMGET', record, 'status', 'total', 'next', 'owner'))
if not status then return {'missing'} end
if status == 'running' then
  local dropped = tonumber(total) - tonumber(next_index)
  redis.call('HSET', record, 'cancel_requested', '1', 'next', total)
  redis.call('HINCRBY', record, 'dropped', dropped)
  redis.call('HINCRBY', key('batch_waiting'), owner, -dropped)
  redis.call('DEL', key('batch_items', id))
  end_batch(id)
end
return {'ok', redis.call('HKEYS', key('batch_live', id))}
