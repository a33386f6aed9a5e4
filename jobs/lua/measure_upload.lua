-- The janitor measured the file that was put to a presigned link. bytes: '' if there is none. Repeated until the link
-- has expired, because it can be used more than once.
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
