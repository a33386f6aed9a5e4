-- A segment is rendered and its file is stored.
local id, number, fence, outcome = unpack(ARGV)
local split = key('split', id)
if redis.call('HGET', split, 'done:' .. number) == outcome then return {'ok'} end
if not holds_segment(id, number, fence) then return {'lost'} end
end_segment_work(id, number)
redis.call('ZREM', key('segments', id), number)
redis.call('HSET', split, 'done:' .. number, outcome, 'progress:' .. number, '1')
redis.call('HDEL', split, 'held:' .. number)
return {'ok'}
