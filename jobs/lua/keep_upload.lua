-- Somebody uses this upload: it lives at least so long from now. One whose time is over stays over, because the
-- janitor may be deleting its file. owner: '*' for whoever it belongs to.
local id, owner, least_ms = unpack(ARGV)
if not is_awaited('uploads', id) then return {'none'} end
local whose = redis.call('HGET', key('upload_owners'), id) or ''
if owner ~= '*' and owner ~= whose then return {'none'} end
local ends = redis.call('ZSCORE', key('uploads'), id)
redis.call('ZADD', key('uploads'), math.max(tonumber(ends), NOW + tonumber(least_ms)), id)
return {'ok', whose}
