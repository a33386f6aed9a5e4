-- Forget an upload whose file is deleted.
local id = ARGV[1]
redis.call('ZREM', key('uploads'), id)
redis.call('ZREM', key('unmeasured'), id)
redis.call('HDEL', key('upload_owners'), id)
redis.call('HDEL', key('link_ends'), id)
redis.call('HDEL', key('upload_sha256'), id)
hold(id, 0)
return {'ok'}
