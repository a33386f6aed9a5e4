-- A worker gives a segment back, with or without counting that it was begun.
local id, number, fence, counts = unpack(ARGV)
local split = key('split', id)
if not holds_segment(id, number, fence) then return {'none'} end
redis.call('HDEL', split, 'held:' .. number)
redis.call('HSET', split, 'progress:' .. number, '0')
if counts == '0' then redis.call('HINCRBY', split, 'begun:' .. number, -1) end
-- Score 0 is what helpers are called for; 1 is due as well, but the owner's.
redis.call('ZADD', key('segments', id), counts == '0' and 0 or 1, number)
return {'ok'}
