-- An open batch whose record cannot be read is not looked at again.
local id, owner = unpack(ARGV)
close_batch(id, owner)
return {'ok'}
