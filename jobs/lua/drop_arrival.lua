-- The files of this arrival are deleted, or a job has taken them over with their bytes.
local id = ARGV[1]
redis.call('ZREM', key('arrivals'), id)
if not get(id, 'status') then hold(id, 0) end
return {'ok'}
