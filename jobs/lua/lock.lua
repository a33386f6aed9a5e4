-- A named lock; its owner may take it again, which renews it.
local name, owner, ttl_ms = unpack(ARGV)
local holder = redis.call('GET', key('lock', name))
if holder and holder ~= owner then return {'ok', '0'} end
redis.call('SET', key('lock', name), owner, 'PX', ttl_ms)
return {'ok', '1'}
