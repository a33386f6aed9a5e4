-- Renew the hold of an export. copy: key in the object store that is about to be written; '' leaves it as it is.
local id, holder, hold_ms, copy = unpack(ARGV)
if not holds_export(id, holder) then return {'lost'} end
if copy ~= '' then redis.call('HSET', key('export', id), 'key', copy) end
hold_item('export', id, redis.call('HGET', key('export', id), 'receiver'), NOW + tonumber(hold_ms), 'XX')
return {'ok'}
