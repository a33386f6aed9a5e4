-- Renew a segment's lease; with a progress, store it.
local id, number, fence, lease_ms, progress = unpack(ARGV)
if not holds_segment(id, number, fence) then return {'lost'} end
redis.call('ZADD', key('segments', id), NOW + tonumber(lease_ms), number)
if progress ~= '' then redis.call('HSET', key('split', id), 'progress:' .. number, progress) end
return {'ok', get(id, 'cancel_requested')}
