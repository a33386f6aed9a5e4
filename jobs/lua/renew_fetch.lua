-- Renew the hold of a fetch; with a stage, tell progress; with an error, keep it as the fetch's last one.
local id, holder, hold_ms, stage, progress, delivery_id, fault = unpack(ARGV)
if not holds_fetch(id, holder) then return {'lost'} end
hold_item('fetch', id, get(id, 'fetch_receiver'), NOW + tonumber(hold_ms), 'XX')
if stage ~= '' then tell_progress(id, stage, progress, delivery_id) end
if fault ~= '' then set(id, 'fetch_error', fault) end
return {'ok', get(id, 'cancel_requested')}
