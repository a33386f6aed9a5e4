-- Nothing of this arrival is left, or a job has taken it over, with what it holds.
local id = ARGV[1]
redis.call('ZREM', key('arrivals'), id)
if not get(id, 'status') then hold(id, 0) end
return {'ok'}
