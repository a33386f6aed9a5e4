-- Set the bytes that an arrival or an upload holds, unless its owner or all owners together would exceed their quota.
-- Shrinking always succeeds. line: the arrival must not have expired (see renew_arrival.lua); '' for an upload.
-- holder: of the fetch of this job's inputs, whose bytes come on top of those that arrived with the job.
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
