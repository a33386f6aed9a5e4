-- The bytes of an arrival become those of the upload, replacing what it held before.
local id, arrival, bytes, least_ms, sha256 = unpack(ARGV)
if not is_awaited('uploads', id) then return {'none'} end
local ends = redis.call('ZSCORE', key('uploads'), id)
redis.call('ZADD', key('uploads'), math.max(tonumber(ends), NOW + tonumber(least_ms)), id)
hold(id, tonumber(bytes), redis.call('HGET', key('upload_owners'), id) or '')
redis.call('ZREM', key('arrivals'), arrival)
hold(arrival, 0)
redis.call('HSET', key('upload_sha256'), id, sha256)
return {'ok'}
