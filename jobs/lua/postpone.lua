-- An item that the janitor failed on is due again after first_ms, doubled at each failure up to longest_ms.
local line, item, first_ms, longest_ms = unpack(ARGV)
if not redis.call('ZSCORE', key(line), item) then return {'none'} end
local failures = redis.call('HINCRBY', key('janitor_failures'), line .. ':' .. item, 1)
count('janitor_failed:' .. line)
local pause_ms = math.min(tonumber(longest_ms), tonumber(first_ms) * 2 ^ math.min(30, failures - 1))
redis.call('ZADD', key(line), NOW + pause_ms, item)
return {'ok', failures, pause_ms}
