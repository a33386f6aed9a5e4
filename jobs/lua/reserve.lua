-- Bytes that an arrival or an upload takes from now on, unless its owner or all owners together would hold too many.
-- What shrinks always fits. line: the arrival must still be one (see renew_arrival.lua); '' for an upload. holder: who
-- fetches the inputs of this job; their bytes come on top of those that arrived with it.
local id, bytes, owner, each, total, line, holder = unpack(ARGV)
if holder then
  if not holds_fetch(id, holder) then return {'lost'} end
  bytes = tonumber(bytes) + tonumber(get(id, 'arrived_bytes'))
end
if line ~= '' and not is_awaited(line, id) then return {'none'} end
local grow = tonumber(bytes) - held_by(id)
if grow > 0 then
  if owner ~= '' and stored_by(owner) + grow > tonumber(each) then return {'full', 'owner'} end
  if stored_by('all') + grow > tonumber(total) then return {'full', 'all'} end
end
hold(id, tonumber(bytes), owner)
return {'ok'}
