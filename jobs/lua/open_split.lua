-- The owner of a job splits it into segments; a split of an earlier attempt is forgotten.
local id, fence, worker, plan, segments = unpack(ARGV)
if lease_state(id, fence, worker, '') ~= 'held' then return {'lost'} end
-- The same plan: this call is repeated after a lost reply.
if redis.call('HGET', key('split', id), 'plan') == plan then return {'ok'} end
-- Only the fence continues: a helper that still works on the former split must hold no segment of this one.
local newest = redis.call('HGET', key('split', id), 'fence') or '0'
redis.call('DEL', key('split', id), key('segments', id))
redis.call('HSET', key('split', id), 'plan', plan, 'fence', newest)
for number = 0, tonumber(segments) - 1 do redis.call('ZADD', key('segments', id), 0, number) end
redis.call('ZADD', key('split_files'), '+inf', id)
return {'ok'}
