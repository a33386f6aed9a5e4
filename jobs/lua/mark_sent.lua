-- The broker accepted the message. `sent` stores when, to find jobs whose message was lost.
local id = ARGV[1]
redis.call('ZREM', key('outbox'), id)
if get(id, 'status') == 'queued' then redis.call('ZADD', key('sent'), NOW, id) end
return {'ok'}
