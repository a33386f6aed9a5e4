-- The janitor looked at what was put to a presigned link. bytes: '' where nothing was yet. Looked at again until the
-- link has ended: it can be used more than once.
local id, bytes, again_ms = unpack(ARGV)
local ends = tonumber(redis.call('HGET', key('link_ends'), id) or '0')
if bytes ~= '' and redis.call('ZSCORE', key('uploads'), id) then
  hold(id, tonumber(bytes))
end
if ends > NOW then
  redis.call('ZADD', key('unmeasured'), NOW + tonumber(again_ms), id)
else
  if bytes == '' then hold(id, 0) end
  redis.call('ZREM', key('unmeasured'), id)
  redis.call('HDEL', key('link_ends'), id)
end
return {'ok'}
