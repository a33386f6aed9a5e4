-- Give a named lock back; one that lapsed and has another owner by now stays.
local name, owner = unpack(ARGV)
if redis.call('GET', key('lock', name)) == owner then redis.call('DEL', key('lock', name)) end
return {'ok'}
