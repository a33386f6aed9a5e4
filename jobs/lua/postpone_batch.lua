-- The next item could not become a job now: not before pause_ms, doubled at each failure up to longest_ms. Replies how often
-- it was tried.
local id, index, pause_ms, longest_ms = unpack(ARGV)
local record = key('batch', id)
if redis.call('HGET', record, 'next') ~= index then return {'none'} end
local tries = redis.call('HINCRBY', record, 'tries', 1)
local pause = math.min(tonumber(longest_ms), tonumber(pause_ms) * 2 ^ math.min(30, tries - 1))
redis.call('HSET', record, 'paused_until', string.format('%.0f', NOW + pause))
return {'ok', tries}
