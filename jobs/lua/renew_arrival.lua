-- Files are still arriving. An expired arrival stays expired, because the janitor may be deleting its files.
local id, within_ms = unpack(ARGV)
if not is_awaited('arrivals', id) then return {'none'} end
redis.call('ZADD', key('arrivals'), NOW + tonumber(within_ms), id)
return {'ok'}
