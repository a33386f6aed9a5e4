-- The broker took the message. `sent` remembers when, for jobs whose message died with its reader.
local id = ARGV[1]
redis.call('ZREM', key('outbox'), id)
if get(id, 'status') == 'queued' then redis.call('ZADD', key('sent'), NOW, id) end
return {'ok'}
