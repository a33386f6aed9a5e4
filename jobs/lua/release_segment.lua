-- A worker releases a segment, with or without counting the attempt.
local id, number, fence, counts = unpack(ARGV)
local split = key('split', id)
if not holds_segment(id, number, fence) then return {'none'} end
end_segment_work(id, number)
redis.call('HDEL', split, 'held:' .. number)
redis.call('HSET', split, 'progress:' .. number, '0')
if counts == '0' then redis.call('HINCRBY', split, 'begun:' .. number, -1) end
-- Score 0: helpers may claim it. Score 1: due as well, but only for the owner.
redis.call('ZADD', key('segments', id), counts == '0' and 0 or 1, number)
return {'ok'}
