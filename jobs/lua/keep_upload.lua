-- Extend the lifetime of an upload in use. An expired one stays expired, because the janitor may be deleting its file.
-- owner: '*' for any owner.
local id, owner, least_ms = unpack(ARGV)
if not is_awaited('uploads', id) then return {'none'} end
local whose = redis.call('HGET', key('upload_owners'), id) or ''
if owner ~= '*' and owner ~= whose then return {'none'} end
local ends = redis.call('ZSCORE', key('uploads'), id)
redis.call('ZADD', key('uploads'), math.max(tonumber(ends), NOW + tonumber(least_ms)), id)
return {'ok', whose}
