-- Files still arrive. An arrival whose time is over stays over, because the janitor may be deleting its files.
local id, within_ms = unpack(ARGV)
if not is_awaited('arrivals', id) then return {'none'} end
redis.call('ZADD', key('arrivals'), NOW + tonumber(within_ms), id)
return {'ok'}
