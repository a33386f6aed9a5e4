-- Release a named lock, unless it has expired and belongs to another owner.
local name, owner = unpack(ARGV)
if redis.call('GET', key('lock', name)) == owner then redis.call('DEL', key('lock', name)) end
return {'ok'}
