-- Set the bytes that an arrival or an upload holds, unless its owner or all owners together would exceed their quota.
-- Shrinking always succeeds. line: the arrival must not have expired (see renew_arrival.lua); '' for an upload.
local id, bytes, owner, each, total, line = unpack(ARGV)
if line ~= '' and not is_awaited(line, id) then return {'none'} end
local grow = tonumber(bytes) - held_by(id)
if grow > 0 then
  if owner ~= '' and stored_by(owner) + grow > tonumber(each) then return {'full', 'owner'} end
  if stored_by('all') + grow > tonumber(total) then return {'full', 'all'} end
end
hold(id, tonumber(bytes), owner)
return {'ok'}
